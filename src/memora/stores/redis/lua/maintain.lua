-- limits, now, at most how many -> how many left, and whether more have to.

local max_entries, max_bytes, now = tonumber(arg()), tonumber(arg()), tonumber(arg())
local left = make_room(max_entries, max_bytes, now, tonumber(arg()))
return { left, surplus(max_entries, max_bytes) }
