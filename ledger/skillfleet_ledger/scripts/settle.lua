-- End an attempt with a terminal state, once, only under the lease.
--
-- KEYS[2]  the key of the result in Celery's format
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote: nothing may be missing before the final one
-- ARGV[4]  terminal state      ARGV[5] reason code      ARGV[6] message for the caller
-- ARGV[7]  payload of the final event
-- ARGV[8]  the result in Celery's format
-- ARGV[9]  ARGV[10]  the run's session and its new state; absent where that stays
--
-- Returns a list: 'settled' (also when this very call already did), 'lost' or 'gap'; then the ids of
-- the runs that the end has made ready, which the caller publishes.
local id = ARGV[1]
local r = read_for_finish(id)
local state, token, seq, settled = r[1], r[2], r[4], r[14]
if token == ARGV[2] and settled == ARGV[2] then return { 'settled' } end
if not holds_lease(state, token, ARGV[2]) then return { 'lost' } end
if tonumber(seq) ~= tonumber(ARGV[3]) then return { 'gap' } end
if ARGV[9] then redis.call('SET', P .. 'session_state:' .. ARGV[9], ARGV[10]) end
finish(id, r, ARGV[4], ARGV[5], ARGV[6], ARGV[7], KEYS[2], ARGV[8], ARGV[2])
return { 'settled', unpack(take_woken()) }
