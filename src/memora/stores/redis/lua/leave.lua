-- -> how many left: one, by the policy.

local chosen = victim()
return chosen and remove(chosen) or 0
