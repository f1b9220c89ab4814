"""What `flwr run` ships: two names of the installed modules, and no copy of anything."""

from simulations import flower

server_app = flower.server_app
client_app = flower.client_app
