-- -> number of evicted entries: one, chosen by the policy.

local chosen = victim()
return chosen and remove(chosen) or 0
