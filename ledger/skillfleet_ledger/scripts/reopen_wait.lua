-- Drop the decision of a wait, which turned out to be invalid, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote
-- ARGV[4]  id of the wait
-- ARGV[5]  why, for people
--
-- Returns {1, number of the last event}, {0} when the lease is gone, {-1, number} when an event is missing.
local id, wait = ARGV[1], ARGV[4]
local r = read_for_waits(id)
if not holds_lease(r[2], r[1], ARGV[2]) then return { 0 } end
local stored = redis.call('HGET', P .. 'waits:' .. id, wait)
local is_decided = redis.call('HEXISTS', P .. 'decisions:' .. id, wait) == 1
if not stored or not is_decided then return { 1, tonumber(r[3]) } end
if r[3] ~= ARGV[3] then return { -1, tonumber(r[3]) } end

redis.call('HDEL', P .. 'decisions:' .. id, wait)
local kind, expires = string.match(stored, '^(%l+) (%S+)')
if expires ~= '-' then redis.call('ZADD', P .. 'timers', expires, id .. ':' .. wait) end
local waiting = (r[7] or '') == '' and kind or r[7] .. ',' .. kind
local payload = opened_payload(wait, string.match(stored, '([^\n]*)$'), ARGV[5])
return { 1, note_waits(id, r, waiting, is_shown(kind) and 'wait' or '', payload) }
