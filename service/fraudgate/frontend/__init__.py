"""Front ends: what turns calls into batches and answers into replies. They are interchangeable."""
