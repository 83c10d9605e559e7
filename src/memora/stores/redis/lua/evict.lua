-- members -> number of those that still existed.

local removed = 0
for _ = 1, tonumber(arg()) do
  removed = removed + remove(arg())
end
return removed
