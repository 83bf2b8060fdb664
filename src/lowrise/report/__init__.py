"""What people look at: tables, pictures, the model card. Never imports torch."""
