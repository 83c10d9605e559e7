-- milliseconds (0: release), then keys and fences -> number of leases that are still held.

local ms, held = tonumber(arg()), 0
for _ = 1, tonumber(arg()) do
  local lease, fence = P .. 'l:' .. arg(), arg()
  if call('GET', lease) == fence then
    held = held + 1
    if ms > 0 then
      call('PEXPIRE', lease, ms)
    else
      call('DEL', lease)
    end
  end
end
return held
