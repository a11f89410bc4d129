-- Charge the call of a remote agent, which is not a run of this fleet, to the budgets of the
-- run that makes it and of those above it. A repeated call of this script charges again.
--
-- ARGV[1]  run id
-- ARGV[2]  token of the calling attempt's lease
--
-- Returns '' when it is charged, else why nothing was: 'parent_ended', 'no_calls' or 'no_tokens'.
local up, budgeted = ARGV[1], {}
local caller = redis.call('HMGET', run_key(up), 'state', 'cancel', 'token')
if caller[2] or not holds_lease(caller[1], caller[3], ARGV[2]) then return 'parent_ended' end
while up do
  local r = redis.call('HMGET', run_key(up), 'parent', 'budget_calls', 'spent_calls', 'budget_tokens', 'spent_tokens')
  if r[2] and tonumber(r[3] or 0) >= tonumber(r[2]) then return 'no_calls' end
  if r[4] and tonumber(r[5] or 0) >= tonumber(r[4]) then return 'no_tokens' end
  if r[2] then budgeted[#budgeted + 1] = up end
  up = r[1]
end
for _, id in ipairs(budgeted) do redis.call('HINCRBY', run_key(id), 'spent_calls', 1) end
return ''
