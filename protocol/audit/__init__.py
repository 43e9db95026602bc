"""What each party notes down of a session: agreed, sent, received, released; and how all of it is checked."""
