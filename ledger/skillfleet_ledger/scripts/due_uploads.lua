-- Find objects in the object store that nothing refers to any more; look at the others again later.
--
-- An object is needed as long as the artifact or the journal that refers to it exists. It also is while
-- its upload may still be committed: that of an artifact while its attempt holds the lease; a value of
-- the journal, which each attempt writes under the same name, while the run has not ended.
--
-- ARGV[1]  most uploads to look at
-- ARGV[2]  when to look at one again, milliseconds from now
--
-- Returns the uploads to delete. They are returned again after that time unless they are removed.
local now = now_ms()
local garbage = {}
for _, upload in ipairs(redis.call('ZRANGEBYSCORE', P .. 'uploads', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local id, token, object, name = string.match(upload, '^([^:]*):([^:]*):([^:]*):(.*)$')
  local r = redis.call('HMGET', run_key(id), 'token', 'state')
  local owner = P .. (name == '' and 'values:' or 'artifacts:') .. id
  local needed
  if name == '' then
    needed = is_live(r[2]) or redis.call('SISMEMBER', owner, object) == 1
  else
    local entry = redis.call('HGET', owner, name)
    needed = holds_lease(r[2], r[1], token) or (entry and cjson.decode(entry).blob == object)
  end
  local again = now + tonumber(ARGV[2])
  if needed then
    again = math.max(again, now + redis.call('PTTL', owner))
  else
    garbage[#garbage + 1] = upload
  end
  redis.call('ZADD', P .. 'uploads', again, upload)
end
return garbage
