-- -> nothing. The index of the query engine is dropped: `open.lua` makes it anew.

if engine == 'ft' then
  call('FT.DROPINDEX', IDX)
end
return 0
