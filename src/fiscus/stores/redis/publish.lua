-- Write accounts as of an entry of the journal, if nobody has written newer ones.
--
-- KEYS: 1 seq, 2 chain, 3 next, 4 rebuild, 5 names, 6 ends, 7 global_budget_remaining
-- ARGV: 1 mode: step, last (of a publication), refresh, rebuild (a step of one), rebuilt (its last)
--       2 after: what must have been reached   3 seq: what is reached with the last step   4 chain hash there
--       5 as_of: the entry that the accounts are as of   6 token of the rebuild   7 how long it lives (ms)
--       8 prefix of accounts   9 prefix of agents, or empty   10 pool: what is left, "none", or empty: leave it
--       11 accounts, MessagePack: {number, name, end of the first window or "", fields, fields of the agent}
-- Answer: done | absent | newer | behind | busy | lost | pool: whether there is one has changed, and with it every agent

local mode, seq, as_of = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5])
local accounts_prefix, agents_prefix, pool = ARGV[8], ARGV[9], ARGV[10]
local is_rebuild = mode == 'rebuild' or mode == 'rebuilt'

if is_rebuild then
  if redis.call('GET', KEYS[4]) ~= ARGV[6] then return 'lost' end
  redis.call('PEXPIRE', KEYS[4], ARGV[7])
else
  local reached = tonumber(redis.call('GET', KEYS[1]) or '')
  local coming = tonumber(redis.call('GET', KEYS[3]) or '')
  local had_pool = redis.call('EXISTS', KEYS[7]) == 1
  if not reached then return 'absent' end
  if mode == 'refresh' then
    if reached ~= seq or coming then return 'busy' end
  else
    if reached >= seq or (coming and coming > seq) then return 'newer' end
    if reached < tonumber(ARGV[2]) then return 'behind' end
  end
  if pool ~= '' and had_pool ~= (pool ~= 'none') then return 'pool' end
  if mode ~= 'refresh' then redis.call('SET', KEYS[3], ARGV[3]) end
end

local function agent_key(name)
  if agents_prefix ~= '' and string.sub(name, 1, 6) == 'agent:' then
    return agents_prefix .. string.sub(name, 7)
  end
end

local function remove(name, number)
  local key = accounts_prefix .. name
  if redis.call('HGET', key, 'number') == number then
    redis.call('DEL', key)
    local agent = agent_key(name)
    if agent then redis.call('DEL', agent) end
  end
end

local function set_hash(key, fields)
  redis.call('DEL', key)
  for from = 1, #fields, 1000 do
    redis.call('HSET', key, unpack(fields, from, math.min(from + 999, #fields)))
  end
end

for _, account in ipairs(cmsgpack.unpack(ARGV[11])) do
  local number, name, first_end, fields, agent_fields = unpack(account)
  local key = accounts_prefix .. name
  local seen = not is_rebuild and tonumber(redis.call('HGET', key, 'as_of_seq') or '')
  if not seen or seen <= as_of then
    local old = redis.call('HGET', KEYS[5], number)
    if old and old ~= name then remove(old, number) end
    if #fields == 0 then
      remove(name, number)
      redis.call('HDEL', KEYS[5], number)
      redis.call('ZREM', KEYS[6], number)
    else
      set_hash(key, fields)
      redis.call('HSET', KEYS[5], number, name)
      if first_end == '' then
        redis.call('ZREM', KEYS[6], number)
      else
        redis.call('ZADD', KEYS[6], first_end, number)
      end
      local agent = agent_key(name)
      if agent then set_hash(agent, agent_fields) end
    end
  end
end

if pool == 'none' then
  redis.call('DEL', KEYS[7])
elseif pool ~= '' then
  redis.call('SET', KEYS[7], pool)
end
if mode == 'last' or mode == 'rebuilt' then
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('SET', KEYS[2], ARGV[4])
  redis.call('DEL', KEYS[3])
  if is_rebuild then redis.call('DEL', KEYS[4]) end
end
return 'done'
