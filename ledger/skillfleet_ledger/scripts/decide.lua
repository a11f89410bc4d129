-- Decide a wait, once; a later caller gets the decision that stands. For producers, too.
--
-- ARGV[1]  run id
-- ARGV[2]  id of the wait
-- ARGV[3]  outcome: 'answered', 'rejected' or 'expired'
-- ARGV[4]  digest of outcome and value
-- ARGV[5]  who decided, and why (JSON)
-- ARGV[6]  value (JSON)
--
-- Returns {status, '1' when the run was parked and is queued now, decision}: status is 'decided', 'same',
-- 'conflict' (decided otherwise, or withdrawn), 'early' (it has not expired yet), 'ended', 'unknown', or
-- 'no_run'.
local id, wait = ARGV[1], ARGV[2]
local decisions = P .. 'decisions:' .. id
local r = redis.call('HMGET', run_key(id), 'state', 'waiting', 'opened_waits')
if not r[1] then return { 'no_run', '', '' } end
local before = redis.call('HGET', decisions, wait)
if before then
  return { string.match(before, '^%l+ (%x+)') == ARGV[4] and 'same' or 'conflict', '', before }
end
if not is_live(r[1]) then return { 'ended', '', '' } end
local stored = redis.call('HGET', P .. 'waits:' .. id, wait)
if not stored then
  local was_opened = string.match(wait, '^%d+$') and tonumber(wait) <= tonumber(r[3] or 0)
  return { was_opened and 'conflict' or 'unknown', '', '' }
end

local now, kind, expires = now_ms(), string.match(stored, '^(%l+) (%S+)')
if ARGV[3] == 'expired' then
  if (tonumber(expires) or math.huge) > now then return { 'early', '', '' } end
elseif kind ~= 'ask' and kind ~= 'grant' then
  return { 'unknown', '', '' }
end
return { 'decided', decide(id, wait, kind, r[2], ARGV[3], ARGV[4], now, ARGV[5], ARGV[6]) and '1' or '', '' }
