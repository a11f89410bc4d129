-- Open a wait, or find the one that the run has opened for the same, only under the lease.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the lease
-- ARGV[3]  number of the last event the attempt wrote
-- ARGV[4]  kind
-- ARGV[5]  when it expires (ms), or '-'
-- ARGV[6]  id of the run it waits for, or '-'
-- ARGV[7]  digest of its identity
-- ARGV[8]  digest of its question: a wait of that identity with another one is withdrawn
-- ARGV[9]  what its event does not show (JSON)
-- ARGV[10] payload of its event, without its id (JSON)
-- ARGV[11] most waits of a run
-- ARGV[12..] address, number pairs: how many events with that address are in the stream
--
-- Returns {1, number of the last event, id of the wait}, {0} when the lease is gone, {-1, number} when
-- an event is missing, {-2, number} when the run has too many waits.
local id, kind = ARGV[1], ARGV[4]
local r = read_for_waits(id)
if not holds_lease(r[2], r[1], ARGV[2]) then return { 0 } end
local seq, waits = tonumber(r[3]), P .. 'waits:' .. id
local before = redis.call('HGETALL', waits)
local other
for i = 1, #before, 2 do
  local identity, question = string.match(before[i + 1], '^%l+ %S+ %S+ %S+ (%x+) (%x+)')
  if identity == ARGV[7] then
    if question == ARGV[8] then return { 1, seq, before[i] } end
    other = before[i]
  end
end
if seq ~= tonumber(ARGV[3]) then return { -1, seq } end
if other then
  close_wait(id, r, other, 'another question was asked in its place')
elseif #before / 2 >= tonumber(ARGV[11]) then
  return { -2, seq }
end

note_emitted(id, 12)
local wait = tostring(redis.call('HINCRBY', run_key(id), 'opened_waits', 1))
redis.call('HSET', waits, wait,
  kind .. ' ' .. ARGV[5] .. ' ' .. now_ms() .. ' ' .. ARGV[6] .. ' ' .. ARGV[7] .. ' ' .. ARGV[8] .. '\n' .. ARGV[9] .. '\n'
    .. ARGV[10])
if ARGV[5] ~= '-' then redis.call('ZADD', P .. 'timers', ARGV[5], id .. ':' .. wait) end
local waiting = (r[7] or '') == '' and kind or r[7] .. ',' .. kind
local event = is_shown(kind) and 'wait' or ''
return { 1, note_waits(id, r, waiting, event, opened_payload(wait, ARGV[10])), wait }
