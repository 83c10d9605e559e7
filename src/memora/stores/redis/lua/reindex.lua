-- Returns nothing. Drops the query engine's index; `open.lua` creates it again.

if engine == 'ft' then
  call('FT.DROPINDEX', IDX)
end
return 0
