-- Put a message into a run's inbox. For producers, too.
--
-- ARGV[1]  run id
-- ARGV[2]  the message
-- ARGV[3]  the request, 16 characters: one that comes again sends nothing more
--
-- Returns {what, '1' when the run was parked and is queued now}: what is 'sent', 'ended', 'full' or 'unknown'.
local id, message = ARGV[1], ARGV[2]
local r = redis.call('HMGET', run_key(id), 'state', 'requests')
if not r[1] then return { 'unknown', '' } end
if is_known(r[2], ARGV[3]) then return { 'sent', '' } end
if not is_live(r[1]) then return { 'ended', '' } end
local is_put, is_woken = put_message(id, message)
if not is_put then return { 'full', '' } end
note_request(id, r[2], ARGV[3])
return { 'sent', is_woken and '1' or '' }
