"""The page in the browser: what serve.py serves. Its verbs are those of enroll.py, called on the same gallery.

guard     who may come in: hosts, sessions, tokens, cross-site requests, sizes, headers
auth      passwords, sessions, how login attempts are slowed down
home      what the pages show, from the gallery and the journal
verbs     what can be done, for forms and for JSON alike
live      one stream from the recogniser for any number of viewers
app       addresses, and the templates that answer them
"""
