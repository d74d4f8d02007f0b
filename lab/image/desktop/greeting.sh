# What a terminal says first: a login shell of the desktop reads it.
if [ -t 1 ] && [ -n "$DISPLAY" ]; then
  cat <<END
This is the desktop of $(hostname): a session, which is a container. Try this:

  Type something and close the browser's tab. View the session again:
  it is all as you left it.

  Write a file:  date >> notes
  Then press Hibernate and Wake on the control plane's page. In between
  nothing of it runs, and the file is still there:  cat notes

A right click on the background opens a menu, with another terminal.

END
fi
