-- limits, now, at most how many -> what `make_room` returns.

local max_entries, max_bytes, now = tonumber(arg()), tonumber(arg()), tonumber(arg())
return make_room(max_entries, max_bytes, now, tonumber(arg()))
