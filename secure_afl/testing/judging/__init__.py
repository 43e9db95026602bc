"""The offline checker's parts: a record in order, what a property is, and the properties by subject."""
