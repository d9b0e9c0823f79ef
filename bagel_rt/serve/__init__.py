"""A model behind HTTP: the routes of OpenAI's API, sessions, a page to try it. Needs the extra `serve`.

Nothing of this room is imported by the library; `bagel-rt serve` imports it when it runs, and so may a program that
wants the application inside its own: app.create_app.
"""
