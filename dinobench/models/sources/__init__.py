"""Where models come from besides files: references and what they lead to, the hub's client, timm's folders."""
