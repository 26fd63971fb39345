#!/bin/sh
# What a change of a policy opens and closes, for the check of a pull request. In a git repository that has both:
#
#     check-policy.sh origin/main policy.toml [CREDENTIAL…]
#
# Says it in Markdown on stdout; problems and warnings are on stderr. What is committed counts, and not what else is in
# the folder. CREDENTIAL: files that the policy names and that are rightly not in the repository; the hash of a password
# that nobody has stands in for each.
#
# Exit status: 0 nothing opens, 1 something does, 2 bad usage, 78 the policy is bad or one of its tests fails.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: check-policy.sh BASE POLICY [CREDENTIAL...]" >&2
    exit 2
fi
base=$1 policy=$2
shift 2

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# proxyd refuses a credential that others may read, and git does not keep who may
umask 077

# The policy as it was where this branch began: what was merged beside it since is no change of this one.
since=$(git merge-base "$base" HEAD) || exit 2
for side in "old $since" "new HEAD"; do
    mkdir "$folder/${side%% *}"
    git -c tar.umask=0077 archive "${side#* }" | tar -x -f - -C "$folder/${side%% *}"
done
# One for all: a hash that differs from the one before would be a change of who is who.
proxyd password --generate 2>/dev/null >"$folder/stand-in"
for credential in "$@"; do
    for side in old new; do
        mkdir -p "$folder/$side/$(dirname "$credential")"
        [ -e "$folder/$side/$credential" ] || cp "$folder/stand-in" "$folder/$side/$credential"
    done
done

cd "$folder/new"
proxyd check "$policy" >&2
if ! proxyd check "../old/$policy" >/dev/null 2>&1; then
    echo "**$policy** is good, and there was no good one to compare it with: all that it allows, it opens."
    exit 1
fi
echo "### $policy"
echo
proxyd diff --markdown "../old/$policy" "$policy"
