-- Free runs that are held back for reasons that are gone.
--
-- ARGV[1]  most runs of each reason
-- ARGV[2..] reasons
--
-- Returns the ids of the freed runs, which the caller publishes and then strikes off `unpublished`.
local now = now_ms()
for i = 2, #ARGV do release_held(ARGV[i], tonumber(ARGV[1]), now) end
return take_woken()
