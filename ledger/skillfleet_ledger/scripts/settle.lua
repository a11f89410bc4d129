-- End an attempt with a terminal state, once, only under the lease.
--
-- KEYS[2]  the key of the result in Celery's format
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote: nothing may be missing before the final one
-- ARGV[4]  terminal state      ARGV[5] reason code      ARGV[6] message for the caller
-- ARGV[7]  payload of the final event
-- ARGV[8]  the result in Celery's format
--
-- Returns 'settled' (also when this very call already did), 'lost', or 'gap'.
local id = ARGV[1]
local r = redis.call('HMGET', run_key(id), 'token', 'state', 'seq', 'settled')
if r[1] ~= ARGV[2] then return 'lost' end
if r[4] == ARGV[2] then return 'settled' end
if r[2] ~= 'running' then return 'lost' end
if tonumber(r[3]) ~= tonumber(ARGV[3]) then return 'gap' end
finish(id, ARGV[4], ARGV[5], ARGV[6], ARGV[7], KEYS[2], ARGV[8], ARGV[2])
return 'settled'
