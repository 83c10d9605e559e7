-- tag -> nothing.

local tag = arg()
if call('EXISTS', P .. 't:' .. tag) == 1 then
  call('ZADD', EPOCHS, next_stamp(), tag)
end
return 0
