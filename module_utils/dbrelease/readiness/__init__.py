"""Whether the next release may begin: criteria over the journal, the backup and the database."""
