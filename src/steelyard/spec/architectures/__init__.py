"""One file per architecture, each with a table named ARCHITECTURE; a new file is found by being here."""
