#!/usr/bin/env bash
# Writes docs/cli.md, every command with what it really printed, and docs/top.svg, a picture of `syncq top` in a terminal.
#
#   crates/cli/docs.sh            (needs tmux for the picture)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cargo build --release --quiet -p syncq-cli --bins --examples
target="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)"
work="$(mktemp -d)"
export PATH="$target/release:$PATH" NO_COLOR=1
cleanup() {
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    [ ! -e "$work/tmux" ] || tmux -S "$work/tmux" kill-server 2>/dev/null || true
    for queue in jobs sensors copy; do syncq rm --force "$queue" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
out="$work/cli.md"
cd "$work"

# Runs a line as a person would type it, and shows it with its output and, if it is not 0, its exit code.
show() {
    local code=0
    # shellcheck disable=SC2016
    printf '```console\n$ %s\n' "$1" >>"$out"
    # What differs from machine to machine is made the same.
    bash -c "$1" >"$work/shown" 2>&1 || code=$?
    sed "s|$target/release/||g; s|$work|/tmp|g" "$work/shown" >>"$out"
    [ "$code" = 0 ] || printf '(exit code %s)\n' "$code" >>"$out"
    printf '```\n\n' >>"$out"
}
say() { printf '%s\n\n' "$*" >>"$out"; }
# The command's own words about itself.
help_of() {
    printf '<details><summary>syncq %s --help</summary>\n\n```text\n' "$1" >>"$out"
    syncq help "$1" >>"$out"
    printf '```\n\n</details>\n\n' >>"$out"
}
section() { printf '## %s\n\n' "$1" >>"$out"; }

say "# The command"
say "<!-- Made by crates/cli/docs.sh: every output below is what the command printed. Change the script, not this page. -->"
say 'See, use and mend queues from a terminal. `cargo install --path crates/cli` installs it as `syncq`; `syncq completions` and `syncq man` make
completions and manual pages.'
say 'Exit codes: **0** done, **1** failed or found something wrong, **2** wrong usage, **124** timed out (as timeout(1)). `run` gives the
exit code of its command. SIGINT and SIGTERM end every command cleanly: what was read already is written; a second one ends it at once. Who closes the
pipe behind a command ends it quietly. There are colours on a terminal only, and none with `NO_COLOR`; `--json` prints one object a line.'
say '`ls`, `info`, `tail`, `stat`, `top` and `doctor` (without `--fix`) map queues read-only, take no slot and no lock, and wake nobody
(`crates/cli/tests/see.rs` looks at the system calls). A queue is a name, or a path where it has a slash. A file that its owner cuts short in the
very moment of looking can still end the looking process with SIGBUS.'

section "create, rm"
show 'syncq create jobs --capacity 64k --slots 8 --timestamps'
show 'syncq create jobs'
show 'syncq create copy && syncq rm copy'
help_of create
help_of rm

section "append"
show 'syncq append jobs --kind note "hello" "and a second message"'
show 'seq 3 | syncq append jobs --kind number --sender counter'
help_of append

section "tail, pop"
say '`tail` observes and never holds writers back. `pop` is a reader: nothing is lost, and writers wait for it. Both begin with what comes from now on,
unless told otherwise.'
show 'syncq tail jobs --drain'
show 'syncq pop jobs --drain --kind number'
show 'syncq tail jobs --drain --not-kind note --json'
show "syncq tail jobs --drain --count 2 --template '{sequence} {time} {sender}: {body}\\n'"
show 'syncq pop jobs --timeout 100ms'
help_of tail
help_of pop

section "run"
show "syncq run jobs -- sh -c 'echo compiling; echo warning >&2; exit 3'"
show 'syncq tail jobs --drain --sender sh'
help_of run

section "ls, info"
syncq pop jobs --name backup >/dev/null &
backup=$!
syncq create sensors --lossy
until syncq info jobs --json | grep -q '"role":"reader"'; do sleep 0.02; done
kill -STOP "$backup"
head -c 30000 /dev/zero | tr '\0' x | syncq append jobs --file -
show 'syncq ls jobs sensors'
show 'syncq info jobs'
show 'syncq ls jobs --json'
help_of ls
help_of info

section "doctor"
kill -KILL "$backup"
wait "$backup" 2>/dev/null || true
show 'syncq doctor jobs sensors'
show 'syncq doctor jobs --fix'
show 'syncq doctor jobs sensors'
help_of doctor

section "stat, top"
show 'syncq stat jobs sensors'
show 'syncq stat jobs --format prometheus | head -n 8'
say '![syncq top](top.svg)'
help_of stat
help_of top

section "latency, bench"
show 'syncq latency --count 20000'
show 'syncq bench --seconds 1 --size 64'
help_of latency
help_of bench

section "record, replay"
show 'syncq record jobs traffic --from oldest --drain && ls traffic'
show 'syncq create copy && syncq replay traffic copy --speed 0 && syncq tail copy --drain --count 2'
help_of record
help_of replay

section "pump, serve"
show 'seq 2 | syncq pump - queue:copy --kind line && syncq pump queue:copy - --drain | tail -n 2'
syncq serve copy --listen 127.0.0.1:0 >url &
until [ -s url ]; do sleep 0.02; done
show 'syncq pump "$(cat url)" - --drain | tail -n 2'
kill -TERM $!
wait $! || true
help_of pump
help_of serve

section "completions, man"
show 'syncq completions bash | head -n 3'
show 'syncq man tail | head -n 4'
help_of completions
help_of man

# The picture: real processes, one of them slow, one dead.
yes 'a line of work' | syncq append jobs --sender worker-1 &
while :; do echo 21.5; sleep 0.03; done | syncq append sensors --sender thermometer &
syncq pop jobs --name archive >/dev/null &
(while syncq pop jobs --name slow --count 20000 --from oldest >/dev/null; do sleep 0.3; done) &
syncq pop sensors --name dashboard >/dev/null &
dead=$!
sleep 1
kill -KILL "$dead"
unset NO_COLOR
if command -v tmux >/dev/null; then
    tmux -u -S "$work/tmux" -f /dev/null new-session -d -x 150 -y 14 "syncq top --interval 200ms --color always jobs sensors"
    sleep 5
    tmux -u -S "$work/tmux" capture-pane -e -p >screen
    "$target/release/examples/picture" <screen >top.svg
    cp top.svg "$OLDPWD/docs/top.svg"
else
    echo "not made: docs/top.svg, tmux is missing" >&2
fi
cp "$out" "$OLDPWD/docs/cli.md"
