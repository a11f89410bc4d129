-- Put a message into a run's inbox. For producers, too.
--
-- ARGV[1]  run id
-- ARGV[2]  the message
-- ARGV[3]  the request, 16 characters: one that comes again sends nothing more
-- ARGV[4]  most messages of an inbox
-- ARGV[5]  most bytes of an inbox
--
-- Returns {what, '1' when the run was parked and is queued now}: what is 'sent', 'ended', 'full' or 'unknown'.
local id, message = ARGV[1], ARGV[2]
local run, inbox = run_key(id), P .. 'inbox:' .. id
local r = redis.call('HMGET', run, 'state', 'requests', 'inbox_bytes', 'waiting')
if not r[1] then return { 'unknown', '' } end
if is_known(r[2], ARGV[3]) then return { 'sent', '' } end
if not is_live(r[1]) then return { 'ended', '' } end
local size = tonumber(r[3] or 0) + #message
if redis.call('LLEN', inbox) >= tonumber(ARGV[4]) or size > tonumber(ARGV[5]) then return { 'full', '' } end
redis.call('RPUSH', inbox, message)
redis.call('HSET', run, 'journal', '1', 'inbox_bytes', size)
note_request(id, r[2], ARGV[3])
local is_awaited = string.find(r[4] or '', 'message', 1, true)
return { 'sent', is_awaited and wake(id) and '1' or '' }
