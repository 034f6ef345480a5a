#!/bin/sh
# Says what the agents of a lock file may do once it is updated, and fails if that is more than what they may do now.
#
#     ./check.sh [agents.lock]
#
# Looks at every agent in the file, also at those that are only needed by others. Exit status: 0 nothing may do more,
# 1 something may, or can't be had.
set -u

lock=${1:-agents.lock}
report=$(mktemp)
trap 'rm -f "$report"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -r "$lock" ] || { echo "$lock: no such file" >&2; exit 1; }

looked=0 refused=0
for reference in $(sed -n 's/^reference = "\(.*\)"$/\1/p' "$lock"); do
    case $reference in
    *@sha256:* | *@sha512:*) continue ;; # what it stands for can't change
    esac
    looked=$((looked + 1))
    if lading diff "$reference" --lock "$lock" --fail-on-new-capabilities >"$report" 2>&1; then
        continue
    fi
    refused=$((refused + 1))
    printf '\n== %s\n' "$reference"
    cat "$report"
done

if [ "$refused" -gt 0 ]; then
    printf '\n%s of %s agents may do more than before, or could not be compared.\n' "$refused" "$looked"
    echo "If that is right: lading lock --update --lock-file $lock"
    exit 1
fi
echo "$looked agents, none of which may do more than before"
