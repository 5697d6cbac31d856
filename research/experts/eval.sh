#!/bin/sh
# The experiment of research/mixing.md: installs the panel's adapters, then evaluates. Arguments go to `quorate eval`.
#     QUORATE=target/release/quorate research/experts/eval.sh --quick --json > eval.json
set -eu
here=$(dirname "$0")
quorate=${QUORATE:-quorate}
panel=german,python,french,rust,sql,arithmetic,manpages
for name in $(echo "$panel" | tr , ' ') pooled; do
    "$quorate" adapter list | grep -q "^$name " ||
        "$quorate" adapter add "$name" "$here/adapters/$name" --base smollm2:135m >&2
done
exec "$quorate" eval --docs "$here/docs" --domains "$panel" --experts "$here/experts.toml" --against pooled "$@"
