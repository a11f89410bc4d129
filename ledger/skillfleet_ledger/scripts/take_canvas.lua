-- Take over what is linked to an ended run or chained after it, which did not go on.
--
-- ARGV[1]  run id
-- ARGV[2]  how long no other worker may take it, milliseconds
--
-- Returns 1, or 0 when it went on, is left to the worker that ended the run, or was taken lately.
local id, now = ARGV[1], now_ms()
local r = redis.call('HMGET', run_key(id), 'canvas_tries', 'canvas_taken')
if not r[1] or not redis.call('ZSCORE', P .. 'canvases', id) then return 0 end
if r[2] and now - tonumber(r[2]) < tonumber(ARGV[2]) then return 0 end
redis.call('HSET', run_key(id), 'canvas_taken', now)
return 1
