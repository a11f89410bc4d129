-- Remove acknowledged messages and claim new ones, in one call.
--
-- KEYS[1]   hash of unacknowledged messages, kombu's format: tag -> [message, exchange, routing key]
-- KEYS[2]   sorted set of their tags by the time of delivery
-- KEYS[3]   list of undecodable messages
-- KEYS[4..] pairs of a queue's list and its `woken` list (fetcher.py); most urgent level first, and
--           within a level the queues in round-robin order
-- ARGV[1]   how many messages to claim at most
-- ARGV[2]   the time of delivery, seconds; it also identifies this claim
-- ARGV[3]   1: first move woken messages back to their lists
-- ARGV[4]   1: the queues of a level share fairly; 0: strictly in their order
-- ARGV[5]   how many queues there are
-- ARGV[6]   the maximum length of the list of undecodable messages
-- ARGV[7]   the maximum size of a message in bytes; 0: no limit
-- ARGV[8..] tags of acknowledged messages
--
-- Returns {claimed, refused}: flat lists of {position of the pair (from 1), message, tag} and
-- {position, message, reason}. Refused messages are in KEYS[3]; those that are too large are truncated.
local unacked, index, undecodable = KEYS[1], KEYS[2], KEYS[3]
local left, now, width = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[5])
local most = tonumber(ARGV[7])
local pairs_of_keys = (#KEYS - 3) / 2

if #ARGV > 7 then
  redis.call('ZREM', index, unpack(ARGV, 8))
  redis.call('HDEL', unacked, unpack(ARGV, 8))
end

if ARGV[3] == '1' then
  for position = 1, pairs_of_keys do
    local list, woken = KEYS[2 + 2 * position], KEYS[3 + 2 * position]
    -- Newest first, so that the oldest ends where the next pop is. Not by LMOVE: a server that
    -- has no memory left refuses a script whose first write may need some.
    local raw = redis.call('LPOP', woken)
    while raw do
      redis.call('RPUSH', list, raw)
      raw = redis.call('LPOP', woken)
    end
  end
end

local claimed, refused, scores, records = {}, {}, {}, {}

local function reason_against(message)
  if type(message) ~= 'table' then return 'not a JSON object' end
  local properties = message.properties
  if type(properties) ~= 'table' then return 'no properties' end
  local tag = properties.delivery_tag
  if type(tag) ~= 'string' or tag == '' or tag:find('[^%w%p]') then
    return 'no properties.delivery_tag of printable characters'
  end
  local info = properties.delivery_info
  if type(info) ~= 'table' or info.exchange == nil or info.routing_key == nil then
    return 'no properties.delivery_info with exchange and routing_key'
  end
  if type(message.body) ~= 'string' then return 'no body' end
end

-- Tag, exchange and routing key (as JSON) of a message, if they can be read without decoding
-- it: a key that occurs once is the envelope's own, because quotes inside of JSON strings are
-- escaped. Other faults of such a message are found by its consumer.
local function read(raw)
  local at = raw:find('"delivery_tag"', 1, true)
  local info = raw:find('"delivery_info"', 1, true)
  if not at or not info or not raw:find('"body"', 1, true) then return end
  if raw:find('"delivery_tag"', at + 1, true) or raw:find('"delivery_info"', info + 1, true) then return end
  local tag = raw:match('^: ?"([%w%-]+)"', at + 14)
  local exchange, key = raw:match('^: ?{"exchange": ?("[%w%._%-]*"), ?"routing_key": ?("[%w%._%-]*")}', info + 15)
  if tag and exchange then return tag, exchange, key end
end

local function note(position, raw, tag, exchange, routing_key)
  scores[#scores + 1] = now
  scores[#scores + 1] = tag
  records[#records + 1] = tag
  records[#records + 1] = '[' .. raw .. ', ' .. exchange .. ', ' .. routing_key .. ']'
  claimed[#claimed + 1] = position
  claimed[#claimed + 1] = raw
  claimed[#claimed + 1] = tag
end

local function refuse(position, raw, reason)
  redis.call('LPUSH', undecodable, raw)
  redis.call('LTRIM', undecodable, 0, ARGV[6] - 1)
  refused[#refused + 1] = position
  refused[#refused + 1] = raw
  refused[#refused + 1] = reason
end

-- Truncate a message that is too large: only its body, if that is the large part, so that its
-- origin stays readable.
local function truncated(raw)
  local _, first = raw:find('"body": ?"')
  local last = first and raw:find('"', first + 1, true)
  if last and #raw - (last - first) <= most then
    return raw:sub(1, math.min(first + 1024, last - 1)) .. raw:sub(last)
  end
  return raw:sub(1, 1024)
end

local function take(position, raw)
  if most > 0 and #raw > most then
    return refuse(position, truncated(raw), 'it has ' .. #raw .. ' bytes, the limit is ' .. most)
  end
  local quick, exchange, routing_key = read(raw)
  if quick then return note(position, raw, quick, exchange, routing_key) end
  local decoded, message = pcall(cjson.decode, raw)
  local reason = decoded and reason_against(message)
  if not decoded then reason = 'not valid JSON' end
  if reason then return refuse(position, raw, reason) end
  local tag, info = message.properties.delivery_tag, message.properties.delivery_info
  note(position, raw, tag, cjson.encode(info.exchange), cjson.encode(info.routing_key))
end

local function take_level(level)
  while left > 0 and #level > 0 do
    local more = {}
    for i, position in ipairs(level) do
      local share = ARGV[4] == '1' and math.ceil(left / (#level - i + 1)) or left
      local popped = share > 0 and redis.call('RPOP', KEYS[2 + 2 * position], share) or {}
      for _, raw in ipairs(popped) do take(position, raw) end
      left = left - #popped
      if share > 0 and #popped == share then more[#more + 1] = position end
    end
    level = more
  end
end

if left > 0 and width > 0 then
  -- Keys of a wrong type must fail here, before anything is popped.
  redis.call('ZCARD', index)
  redis.call('HLEN', unacked)
  redis.call('LLEN', undecodable)
  for first = 1, pairs_of_keys, width do
    local level = {}
    for position = first, first + width - 1 do level[#level + 1] = position end
    take_level(level)
  end
end

if #scores > 0 then
  redis.call('ZADD', index, unpack(scores))
  redis.call('HSET', unacked, unpack(records))
end
return { claimed, refused }
