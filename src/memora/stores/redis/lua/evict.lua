-- members -> how many were still there.

local removed = 0
for _ = 1, tonumber(arg()) do
  removed = removed + remove(arg())
end
return removed
