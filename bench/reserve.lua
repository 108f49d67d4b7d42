-- Reserve on every level and in both units, or on none.
-- KEYS: the hold, then the accounts, leaf first. ARGV: tokens, cost, how long the hold lives (ms).
if redis.call('EXISTS', KEYS[1]) == 1 then
    return 'held'
end
local tokens, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
for level = 2, #KEYS do
    local is = redis.call('HMGET', KEYS[level],
        'tokens_limit', 'tokens_held', 'tokens_spent', 'cost_limit', 'cost_held', 'cost_spent')
    if tonumber(is[2]) + tonumber(is[3]) + tokens > tonumber(is[1])
        or tonumber(is[5]) + tonumber(is[6]) + cost > tonumber(is[4]) then
        return KEYS[level]
    end
end
for level = 2, #KEYS do
    redis.call('HINCRBY', KEYS[level], 'tokens_held', tokens)
    redis.call('HINCRBY', KEYS[level], 'cost_held', cost)
end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'cost', cost)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'held'
