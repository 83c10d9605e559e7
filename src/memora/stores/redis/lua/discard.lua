-- keys and ids -> number of removed entries: those whose ids still matched.

local removed = 0
for _ = 1, tonumber(arg()) do
  local key, id = arg(), arg()
  if call('HGET', P .. 'e:' .. key, 'i') == id then
    removed = removed + remove(stored(key))
  end
end
return removed
