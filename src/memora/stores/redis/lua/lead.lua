-- key, milliseconds -> a fence, or nothing if another process has the lease.

local lease, ms = P .. 'l:' .. arg(), arg()
if call('EXISTS', lease) == 1 then
  return false
end
local fence = string.format('%.0f', next_stamp())
call('SET', lease, fence, 'PX', ms)
return fence
