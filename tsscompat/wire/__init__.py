"""Field tables and the cursor that reads and writes them; knows no index."""
