# A page of the book as a bash program of calls to `block`, one for each fenced block and each `<!-- setup ... -->`, for book.sh.
# usage: awk -v page=docs/backup.md -f book.awk docs/backup.md

function quoted(text) { gsub(/'/, "'\\''", text); return "'" text "'" }
function begin(info) { print "block " quoted(page ":" FNR) " " quoted(info) " <<'END-OF-BLOCK'" }
function end() { print "END-OF-BLOCK"; within = "" }

within == "setup" && /-->$/ { sub(/ *-->$/, ""); if ($0 != "") print; end(); next }
within == "fence" && /^```$/ { end(); next }
within != "" { print; next }

# <!-- setup: COMMANDS --> or <!-- setup background="TEXT": COMMANDS -->, over any number of lines
/^<!-- setup/ {
    sub(/^<!-- /, "")
    colon = match($0, /: |:$/)
    if (!colon) { print FILENAME ":" FNR ": no colon behind `setup`" >"/dev/stderr"; exit 1 }
    begin(substr($0, 1, colon - 1))
    within = "setup"
    rest = substr($0, colon + 2)
    ends = sub(/ *-->$/, "", rest)
    if (rest != "") print rest
    if (ends) end()
    next
}
/^```/ { begin(substr($0, 4)); within = "fence"; next }
/^ +```/ { print FILENAME ":" FNR ": an indented block" >"/dev/stderr"; exit 1 }

END { if (within != "") { print FILENAME ": a block without an end" >"/dev/stderr"; exit 1 } }
