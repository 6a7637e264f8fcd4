"""What runs leave: records, the statistics over them, figures and the report; read without torch."""
