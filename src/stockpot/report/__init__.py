"""Pictures, tables, sentences, pages and the model card. Import the room you need; nothing is loaded here."""
