-- now -> how many left: one, ended or else by the policy.

local ended = purge(tonumber(arg()), 1)
return ended > 0 and ended or remove(victim())
