-- Find a page of runs, the newest first. A call reads a bounded number of index entries, however many
-- runs there are: it may find fewer runs than it was asked for, and says from where to go on.
--
-- ARGV[1]  most runs to find
-- ARGV[2]  most index entries to read
-- ARGV[3]  time of the oldest run, milliseconds
-- ARGV[4]  ARGV[5]  the position after which the page begins: a run's time of creation and its id
-- ARGV[6]  the state they must show; '' for any
-- ARGV[7..] names of the indexes they must be in, without `index:`: agent:AGENT, tag:KEY=VALUE,
--          session:SESSION
--
-- Returns {is_complete, time, id, found}: is_complete is 1 when there are no further runs; else time
-- and id are the position up to which was searched. found is a flat list of times and ids, in order.
local most, room, oldest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local after, after_id, state = tonumber(ARGV[4]), ARGV[5], ARGV[6]

-- Redis orders members by their bytes; Lua's own comparison depends on the server's locale.
local function is_less(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- Whether the run at this time is listed after the one at the other time.
local function follows(at, id, other_at, other_id)
  return at < other_at or (at == other_at and is_less(id, other_id))
end

-- The smallest of the indexes by creation that hold all wanted runs.
local function choose()
  local start = P .. 'index:'
  if state ~= '' and not is_live(state) and is_indexed(state) then start = start .. 'state:' .. state .. ':' end
  local walked = start .. 'all'
  local size = redis.call('ZCARD', walked)
  for i = 7, #ARGV do
    local count = redis.call('ZCARD', start .. ARGV[i])
    if count <= size then walked, size = start .. ARGV[i], count end
  end
  return walked, size
end

local walked, size = choose()

-- The time of creation of a run that fits; false for others, and for an entry of the id's former life.
local function fits(id, at)
  local r = redis.pcall('HMGET', run_key(id), 'state', 'created', 'waiting')
  -- The error of an unreadable record has no second value, either.
  local created = tonumber(r[2])
  if not created or (at and created ~= at) then return false end
  local shown = r[1]
  if shown == 'running' and r[3] and r[3] ~= '' then shown = 'waiting' end
  if state ~= '' and shown ~= state then return false end
  for i = 7, #ARGV do
    local key = P .. 'index:' .. ARGV[i]
    local score = key == walked and created or redis.call('ZSCORE', key, id)
    if not score or tonumber(score) ~= created then return false end
  end
  return created
end

-- The rank in the walked index, newest first, at which the page begins.
local function first_rank()
  local low = redis.call('ZCOUNT', walked, '(' .. ARGV[4], '+inf')
  local high = redis.call('ZCOUNT', walked, ARGV[4], '+inf')
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_less(redis.call('ZRANGE', walked, middle, middle, 'REV')[1], after_id) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local CHUNK = 100

local function walk()
  local found, rank, at, id = {}, first_rank(), nil, nil
  while room > 0 do
    local entries = redis.call('ZRANGE', walked, rank, rank + math.min(room, CHUNK) - 1, 'REV', 'WITHSCORES')
    for i = 1, #entries, 2 do
      id, at = entries[i], tonumber(entries[i + 1])
      if at < oldest then return { 1, 0, '', found } end
      rank, room = rank + 1, room - 1
      if fits(id, at) then
        found[#found + 1] = at
        found[#found + 1] = id
        if #found == 2 * most then return { rank >= size and 1 or 0, at, id, found } end
      end
    end
    if rank >= size then return { 1, 0, '', found } end
  end
  return { 0, at, id, found }
end

-- The indexes with all runs that show a live state, which are not ordered by creation.
local function live_indexes()
  if state == 'running' then return { P .. 'leases' } end
  if state == 'waiting' then return { P .. 'leases', P .. 'parked' } end
  local keys = { P .. 'delayed', P .. 'held' }
  for _, name in ipairs(redis.call('SMEMBERS', P .. 'queues')) do keys[#keys + 1] = P .. 'ready:' .. name end
  return keys
end

local function sort_live(keys)
  local runs = {}
  for _, key in ipairs(keys) do
    for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      local at = fits(id)
      if at and at >= oldest and follows(at, id, after, after_id) then runs[#runs + 1] = { at, id } end
    end
  end
  table.sort(runs, function(one, other) return follows(other[1], other[2], one[1], one[2]) end)
  local found = {}
  for i = 1, math.min(most, #runs) do
    found[#found + 1] = runs[i][1]
    found[#found + 1] = runs[i][2]
  end
  if #runs <= most then return { 1, 0, '', found } end
  return { 0, runs[most][1], runs[most][2], found }
end

-- Where few runs are in a live state, they are all read; among many, the newest runs are soon found.
if state ~= '' and is_live(state) then
  local keys, count = live_indexes(), 0
  for _, key in ipairs(keys) do count = count + redis.call('ZCARD', key) end
  if count <= math.min(room, size) then
    walked = ''
    return sort_live(keys)
  end
end
return walk()
