-- List the schedules that are due, those that are due longest first.
--
-- ARGV[1]  most of them
--
-- Returns {now (ms), {names}}.
local now = now_ms()
return { now, redis.call('ZRANGEBYSCORE', P .. 'schedules', '-inf', now, 'LIMIT', 0, ARGV[1]) }
