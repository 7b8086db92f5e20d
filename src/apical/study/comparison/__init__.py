"""Many rules and seeds on one task: their runs, their costs, and the document that they leave."""
