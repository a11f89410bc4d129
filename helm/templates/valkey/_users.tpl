{{/* Redis users with just the rights that each part needs: namespace, queues. One line a user, no passwords. */}}
{{- define "skillfleet.redisUsers" -}}
{{- $ledger := printf "{%s:*}:" .namespace -}}
{{- $celery := eq .namespace "skillfleet" | ternary "" (printf "%s:" .namespace) -}}
{{- $none := list "on" "resetpass" "resetkeys" "resetchannels" "-@all" -}}
{{- /* By category: Redis 7.0 refuses users that name CLIENT SETINFO, and 6.2 counts CLIENT as dangerous. */ -}}
{{- $connection := list "+@connection" "-@admin" "-@dangerous" "+client|setname" "+client|id" "+time" -}}
{{- $results := printf "%scelery-task-meta-*" $celery -}}

{{- /* What kombu puts between a queue and a priority: two bytes, and never a colon, as another namespace has it. */ -}}
{{- $sep := "[^:][^:]" -}}
{{- /* A queue's list, and its lists for the priorities 3, 6 and 9; the engine's neighbours of these. */ -}}
{{- $lists := list -}}
{{- $woken := list -}}
{{- range .queues -}}
{{- $list := printf "~%s%s" $celery . -}}
{{- $lists = concat $lists (list $list (printf "%s%s[0-9]" $list $sep)) -}}
{{- $woken = concat $woken (list (printf "%s%swoken" $list $sep) (printf "%s%s[0-9]%swoken" $list $sep $sep)) -}}
{{- end -}}
{{- /* Where answers to remote control arrive: a UUID's length, so that no other namespace fits before it. */ -}}
{{- $reply := printf "~%s????????-????-????-????-????????????.reply.celery.pidbox" $celery -}}
{{- $replies := list $reply (printf "%s%s[0-9]" $reply $sep) -}}
{{- $bindings := printf "~%s_kombu.binding*" $celery -}}
{{- $monitors := printf "~%sceleryev.*" $celery -}}
{{- $unacked := list (printf "~%sunacked" $celery) (printf "~%sunacked_index" $celery) -}}
{{- $mutex := printf "~%sunacked_mutex" $celery -}}

{{- /* Asks for runs, follows and cancels them; writes no result, lease, event or artifact. */ -}}
{{- $producer := concat (list "skillfleet-producer") $none $connection -}}
{{- $producer = concat $producer (list "+eval" "+evalsha" "+script|load" "+exists" "+get" "+hget" "+hexists" "+hmget" "+hgetall" "+hkeys" "+hvals" "+hlen" "+hset" "+hincrby" "+lpush" "+smembers" "+sismember" "+scard" "+sadd" "+strlen" "+zadd" "+zcard" "+zcount" "+zscore" "+zrange" "+zrangebyscore" "+zrevrange" "+xread" "+xrange" "+xlen" "+publish" "+subscribe" "+unsubscribe") -}}
{{- /* Without a name: scripts are called with the shard's prefix. */ -}}
{{- range list "" "run:*" "children:*" "index:all" "index:agent:*" "index:tag:*" "index:session:*" "ready:*" "queues" "delayed" "delays" "alarms" "deadlines" "cleanups" "held" "held:session:*" "session:*" "session_runs:*" "sessions" "schedule:*" "schedules" "workspace:*" "workspaces" -}}
{{- $producer = append $producer (printf "~%s%s" $ledger .) -}}
{{- end -}}
{{- $producer = concat $producer (list (printf "%%R~%s*" $ledger)) $lists (list (printf "%%R~%s" $results) (printf "&%s" $results) (printf "&%sworker:*" $ledger) (printf "&%ssession:*" $ledger)) -}}
{{- /* A script that publishes needs the queues' lists for reading, too: no command here reads a list but this one. */ -}}
{{- $producer = append $producer (printf "(+lrange %%R~%sattempts:*)" $ledger) -}}
{{- /* Decides waits, once, sends messages, reads journals. A parked run that this wakes goes before new ones. */ -}}
{{- $producer = append $producer (printf "(+hsetnx ~%sdecisions:*)" $ledger) -}}
{{- $producer = append $producer (printf "(+rpush +llen ~%sinbox:*)" $ledger) -}}
{{- $producer = append $producer (printf "(+hscan %%R~%sjournal:*)" $ledger) -}}
{{- $producer = append $producer (printf "(+zadd +zrem ~%sunpublished ~%sparked ~%salarms)" $ledger $ledger $ledger) -}}
{{- /* Revokes grants: notes when, of a session or tree of runs. */ -}}
{{- $producer = append $producer (printf "(+set ~%sgrant_epoch:*)" $ledger) -}}
{{- /* Schedules: made, changed, removed. */ -}}
{{- $producer = append $producer (printf "(+del +zrem ~%sschedule:* ~%sschedules ~%salarms)" $ledger $ledger $ledger) -}}
{{- $producer = append $producer (printf "(%s)" (concat (list "+rpush") $lists | join " ")) -}}

{{- /* Executes runs: all of the ledger and of Celery's keys, and nothing of the server. Of scripts it may call what it loads; it sees no names of keys. */ -}}
{{- $worker := list "skillfleet-worker" "on" "resetpass" "resetkeys" "resetchannels" "+@all" "-@admin" "-@dangerous" "-@scripting" "-scan" "-randomkey" "+eval" "+evalsha" "+script|load" "+script|exists" "+info" "+client|unblock" (printf "~%s*" $ledger) (printf "&%s*" $ledger) -}}
{{- $worker = concat $worker $lists $woken (list (printf "~%s" $results) (printf "&%s" $results)) -}}
{{- $worker = concat $worker (list (printf "~%scelery-taskset-meta-*" $celery) (printf "~%sundecodable" $celery)) -}}
{{- $worker = concat $worker $unacked $replies (list $mutex $bindings $monitors) -}}
{{- /* A worker's own remote control: Celery names workers celery@HOST. */ -}}
{{- $worker = append $worker (printf "~%scelery@*.celery.pidbox*" $celery) -}}
{{- /* The last as it is subscribed to by Flower, which is the workers' user where it has none of its own. */ -}}
{{- range list "/0.celery.pidbox" "/0.celeryev*" "/0.celeryev/*" -}}
{{- $worker = append $worker (printf "&%s%s" $celery .) -}}
{{- end -}}

{{- /* Counts: the exporter's of the ledger, KEDA's of the lists. Sees no run. */ -}}
{{- $exporter := concat (list "skillfleet-exporter") $none $connection -}}
{{- $exporter = concat $exporter (list "+info" "+smembers" "+hgetall" "+hvals" "+scard" "+zcard" "+zrange" "+zrangebyscore" "+eval" "+type" "+llen") -}}
{{- range list "queues" "delays" "unserved" "alarms" "parked" "timers" "running:*" "ready:*" "cards" "workers" -}}
{{- $exporter = append $exporter (printf "%%R~%s%s" $ledger .) -}}
{{- end -}}
{{- /* Not for reading alone, or Redis refuses KEDA's script before it runs; no command here writes. */ -}}
{{- $exporter = concat $exporter $lists -}}

{{- /* Celery's events and remote control. kombu's sweep puts overdue messages back into the lists. Each kind of key has its own commands. */ -}}
{{- $flower := concat (list "skillfleet-flower") $none $connection -}}
{{- $flower = concat $flower (list "+multi" "+exec" "+discard" "+script|load" "+script|exists" "+publish" "+subscribe" "+unsubscribe" "+psubscribe" "+punsubscribe") -}}
{{- /* A pattern that is subscribed to must stand here as it is. */ -}}
{{- range list "/0.celery.pidbox" "/0.celeryev/*" -}}
{{- $flower = append $flower (printf "&%s%s" $celery .) -}}
{{- end -}}
{{- $rights := list (concat (list "+eval" "+evalsha") $unacked (list $mutex $bindings) $lists) -}}
{{- $rights = append $rights (concat (list "+hget" "+hdel" "+zadd" "+zrem" "+zrange" "+zrangebyscore" "+zrevrangebyscore") $unacked) -}}
{{- $rights = append $rights (list "+set" "+get" "+del" "+exists" "+pexpire" "+pttl" $mutex) -}}
{{- $rights = append $rights (list "+sadd" "+srem" "+smembers" "+exists" "+del" "+zadd" "+zrem" "+zrangebyscore" $bindings) -}}
{{- $rights = append $rights (concat (list "+llen" "+brpop" "+lpush" "+rpush" "+exists" "+del" $monitors) $replies) -}}
{{- $rights = append $rights (concat (list "+llen" "+lpush" "+rpush") $lists) -}}
{{- $rights = append $rights (list "+get" "+subscribe" "+unsubscribe" (printf "%%R~%s" $results) (printf "&%s" $results)) -}}
{{- range $rights }}{{ $flower = append $flower (printf "(%s)" (join " " .)) }}{{ end -}}

{{- range list $producer $worker $exporter $flower }}
user {{ join " " . }}
{{- end }}
{{- end }}

{{/* The users of the trial Valkey: those that all pools' queues ask for, and no default user. */}}
{{- define "skillfleet.valkeyUsers" -}}
{{- $queues := list .Values.settings.defaultQueue -}}
{{- range include "skillfleet.pools" . | fromJsonArray }}{{ $queues = concat $queues .queues }}{{ end -}}
user default off resetpass resetkeys resetchannels -@all
{{- include "skillfleet.redisUsers" (dict "namespace" .Values.settings.namespace "queues" (uniq $queues)) }}
{{- end }}
