-- limits, now, most removals -> the result of `make_room`.

local max_entries, max_bytes, now = tonumber(arg()), tonumber(arg()), tonumber(arg())
return make_room(max_entries, max_bytes, now, tonumber(arg()))
