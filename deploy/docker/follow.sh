#!/bin/sh
# Connects the containers of this host's Docker that bear a label overspan=NETWORK:
# those that run, and then each as it starts. It ends when Docker does; its service
# runs it again, which begins with a look at all, so that none is missed.
set -eu

for program in ctl docker; do
	command -v "$program" >/dev/null || {
		echo "$program is not installed; after it is: systemctl restart overspan-docker" >&2
		exit 127
	}
done

started() { docker inspect --format '{{.State.StartedAt}}' "$1" 2>/dev/null || :; }

# connect tries as long as the container runs, every second at first, and says so
# once: the agent may be starting, somebody may be about to make the network, and of a
# container that was started again the endpoint that has ended may still bear the name.
connect() {
	tries=0
	since=$(started "$1")
	until said=$(ctl network connect "$2" "docker:$1" 2>&1); do
		case $said in
		*" already, as "*) return ;;                            # since before this service
		*" is not running"* | *"not found: Docker"*) return ;; # it has ended meanwhile
		esac
		[ "$(started "$1")" = "$since" ] || return 0 # and another start of it has its own turn
		tries=$((tries + 1))
		if [ "$tries" -eq 60 ]; then
			echo "container $1 is in no network yet, and is tried again: $said" >&2
		fi
		if [ "$tries" -lt 60 ]; then sleep 1; else sleep 10; fi
	done
	echo "container $1 is in network $2"
}

# Those that start during the look are among the events since then as well.
since=$(date +%s)
{
	docker ps --no-trunc --filter label=overspan --format '{{.ID}} {{.Label "overspan"}}'
	docker events --since "$since" --filter type=container --filter event=start --filter label=overspan \
		--format '{{.ID}} {{index .Actor.Attributes "overspan"}}'
} | while read -r id network; do
	connect "$id" "$network" & # each waits for itself alone
done
