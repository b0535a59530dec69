"""What is made of records: tables, paired tests, the gate, explanations."""
