"""Rules for files that go with rows: where they lie in the source, what they are called in Storage, what they hold."""
