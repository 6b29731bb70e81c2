"""A case as its officer has it: notices, papers, the case file, looking people up, recalls, and the retention of it."""
