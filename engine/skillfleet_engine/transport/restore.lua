-- Requeue one unacknowledged message, unless it was acknowledged meanwhile.
--
-- KEYS[1]   hash of unacknowledged messages
-- KEYS[2]   sorted set of their tags by the time of delivery
-- KEYS[3..] the lists to push it to
-- ARGV[1]   its tag
-- ARGV[2]   RPUSH: delivered next; LPUSH: delivered last
-- ARGV[3]   the message
--
-- Returns 1 when it was put back.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 3, #KEYS do redis.call(ARGV[2], KEYS[i], ARGV[3]) end
return 1
